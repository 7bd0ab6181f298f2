// For the function without a body in main.go.
