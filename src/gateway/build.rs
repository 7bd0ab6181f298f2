//! Compiles the message definitions of `proto/` without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["remote_write_v1.proto", "remote_write_v2.proto", "quiver/query/v1/query.proto"];
    let root = "../../proto";
    for f in files {
        println!("cargo:rerun-if-changed={root}/{f}");
    }
    let set = protox::compile(files, [root])?;
    prost_build::Config::new().compile_fds(set)?;
    Ok(())
}
