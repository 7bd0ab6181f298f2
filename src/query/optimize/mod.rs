//! What is decided about a logical plan before operators are made.
//!
//! DataFusion's rules know expressions and tables, of which these plans have few: PromQL sessions run the rules here and no
//! others, so that planning a small query costs microseconds.

pub mod share;
