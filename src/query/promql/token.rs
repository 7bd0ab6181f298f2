//! Tokens: what the lexer gives the parser, and how a message names them.

use super::ast::{AggregateOp, BinaryOp};
use super::strings;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Eof,
    Identifier,
    MetricIdentifier,
    Number,
    Duration,
    String,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`
    Assign,
    /// `=~`
    EqlRegex,
    /// `!~`
    NeqRegex,
    At,
    // Operators.
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Eql,
    Neq,
    Lte,
    Lss,
    Gte,
    Gtr,
    TrimUpper,
    TrimLower,
    And,
    Or,
    Unless,
    Atan2,
    // Aggregations.
    Avg,
    Bottomk,
    Count,
    CountValues,
    Group,
    Limitk,
    LimitRatio,
    Max,
    Min,
    Quantile,
    Stddev,
    Stdvar,
    Sum,
    Topk,
    // Modifiers.
    Anchored,
    Bool,
    By,
    Fill,
    FillLeft,
    FillRight,
    GroupLeft,
    GroupRight,
    Ignoring,
    Offset,
    On,
    Smoothed,
    Without,
    // Words that are functions as well.
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// The kind of a word that is not a plain identifier. Case does not matter.
pub(super) fn keyword(word: &str) -> Option<Kind> {
    let mut lower = [0u8; 12];
    let lower = lower.get_mut(..word.len())?;
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    Some(match &*lower {
        b"and" => Kind::And,
        b"or" => Kind::Or,
        b"unless" => Kind::Unless,
        b"atan2" => Kind::Atan2,
        b"sum" => Kind::Sum,
        b"avg" => Kind::Avg,
        b"count" => Kind::Count,
        b"min" => Kind::Min,
        b"max" => Kind::Max,
        b"group" => Kind::Group,
        b"stddev" => Kind::Stddev,
        b"stdvar" => Kind::Stdvar,
        b"topk" => Kind::Topk,
        b"bottomk" => Kind::Bottomk,
        b"count_values" => Kind::CountValues,
        b"quantile" => Kind::Quantile,
        b"limitk" => Kind::Limitk,
        b"limit_ratio" => Kind::LimitRatio,
        b"offset" => Kind::Offset,
        b"smoothed" => Kind::Smoothed,
        b"anchored" => Kind::Anchored,
        b"by" => Kind::By,
        b"without" => Kind::Without,
        b"on" => Kind::On,
        b"ignoring" => Kind::Ignoring,
        b"group_left" => Kind::GroupLeft,
        b"group_right" => Kind::GroupRight,
        b"fill" => Kind::Fill,
        b"fill_left" => Kind::FillLeft,
        b"fill_right" => Kind::FillRight,
        b"bool" => Kind::Bool,
        b"start" => Kind::Start,
        b"end" => Kind::End,
        b"step" => Kind::Step,
        b"range" => Kind::Range,
        b"max_of" => Kind::MaxOf,
        b"min_of" => Kind::MinOf,
        b"inf" | b"nan" => Kind::Number,
        _ => return None,
    })
}

/// How tightly a binary operator binds; unary signs bind as `*` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Or,
    And,
    Compare,
    Add,
    Mul,
    Pow,
}

impl Kind {
    /// The binary operator and how tightly it binds.
    pub fn binary(self) -> Option<(BinaryOp, Precedence)> {
        Some(match self {
            Kind::Or => (BinaryOp::Or, Precedence::Or),
            Kind::And => (BinaryOp::And, Precedence::And),
            Kind::Unless => (BinaryOp::Unless, Precedence::And),
            Kind::Eql => (BinaryOp::Eql, Precedence::Compare),
            Kind::Neq => (BinaryOp::Neq, Precedence::Compare),
            Kind::Lte => (BinaryOp::Lte, Precedence::Compare),
            Kind::Lss => (BinaryOp::Lss, Precedence::Compare),
            Kind::Gte => (BinaryOp::Gte, Precedence::Compare),
            Kind::Gtr => (BinaryOp::Gtr, Precedence::Compare),
            Kind::TrimUpper => (BinaryOp::TrimUpper, Precedence::Compare),
            Kind::TrimLower => (BinaryOp::TrimLower, Precedence::Compare),
            Kind::Add => (BinaryOp::Add, Precedence::Add),
            Kind::Sub => (BinaryOp::Sub, Precedence::Add),
            Kind::Mul => (BinaryOp::Mul, Precedence::Mul),
            Kind::Div => (BinaryOp::Div, Precedence::Mul),
            Kind::Mod => (BinaryOp::Mod, Precedence::Mul),
            Kind::Atan2 => (BinaryOp::Atan2, Precedence::Mul),
            Kind::Pow => (BinaryOp::Pow, Precedence::Pow),
            _ => return None,
        })
    }

    /// The aggregation it names.
    pub fn aggregate(self) -> Option<AggregateOp> {
        Some(match self {
            Kind::Avg => AggregateOp::Avg,
            Kind::Bottomk => AggregateOp::Bottomk,
            Kind::Count => AggregateOp::Count,
            Kind::CountValues => AggregateOp::CountValues,
            Kind::Group => AggregateOp::Group,
            Kind::Limitk => AggregateOp::Limitk,
            Kind::LimitRatio => AggregateOp::LimitRatio,
            Kind::Max => AggregateOp::Max,
            Kind::Min => AggregateOp::Min,
            Kind::Quantile => AggregateOp::Quantile,
            Kind::Stddev => AggregateOp::Stddev,
            Kind::Stdvar => AggregateOp::Stdvar,
            Kind::Sum => AggregateOp::Sum,
            Kind::Topk => AggregateOp::Topk,
            _ => return None,
        })
    }

    /// Words that name a function when a parenthesis follows, and a metric otherwise.
    pub fn is_function_word(self) -> bool {
        matches!(self, Kind::Start | Kind::End | Kind::Step | Kind::Range | Kind::MaxOf | Kind::MinOf)
    }

    /// May it stand where a metric name is expected?
    pub fn is_metric_name(self) -> bool {
        self.aggregate().is_some()
            || self.is_function_word()
            || matches!(
                self,
                Kind::Identifier
                    | Kind::MetricIdentifier
                    | Kind::By
                    | Kind::Without
                    | Kind::Fill
                    | Kind::FillLeft
                    | Kind::FillRight
                    | Kind::And
                    | Kind::Or
                    | Kind::Unless
                    | Kind::Offset
                    | Kind::Anchored
                    | Kind::Smoothed
            )
    }

    /// May it stand, without quotes, where a label name is expected?
    pub fn is_label_name(self) -> bool {
        (self.is_metric_name() && self != Kind::Without)
            || matches!(self, Kind::Atan2 | Kind::Bool | Kind::GroupLeft | Kind::GroupRight | Kind::Ignoring | Kind::On)
    }

    /// Can an expression start with it?
    pub fn starts_expression(self) -> bool {
        self.is_metric_name()
            || matches!(
                self,
                Kind::Number
                    | Kind::Duration
                    | Kind::String
                    | Kind::LeftParen
                    | Kind::LeftBrace
                    | Kind::Add
                    | Kind::Sub
            )
    }

    /// May an expression end with it, so that its end is worth remembering?
    pub fn is_closing(self) -> bool {
        matches!(self, Kind::RightBrace | Kind::RightParen | Kind::RightBracket | Kind::Duration | Kind::Number)
    }
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    /// First byte.
    pub pos: usize,
    /// As written.
    pub text: &'a str,
}

impl Token<'_> {
    /// One past the last byte.
    pub fn end(&self) -> usize {
        self.pos + self.text.len()
    }

    /// How a message names it.
    pub fn description(&self) -> String {
        let text = self.text;
        match self.kind {
            Kind::Eof => "end of input".to_owned(),
            Kind::Identifier => format!("identifier {}", strings::quote(text)),
            Kind::MetricIdentifier => format!("metric identifier {}", strings::quote(text)),
            Kind::Number => format!("number {}", abridged(text)),
            Kind::Duration => format!("duration {}", abridged(text)),
            Kind::String => format!("string {}", abridged(text)),
            Kind::Anchored
            | Kind::Bool
            | Kind::By
            | Kind::Fill
            | Kind::FillLeft
            | Kind::FillRight
            | Kind::GroupLeft
            | Kind::GroupRight
            | Kind::Ignoring
            | Kind::Offset
            | Kind::On
            | Kind::Smoothed
            | Kind::Without => format!("<{text}>"),
            Kind::At | Kind::EqlRegex | Kind::NeqRegex => format!("<op:{text}>"),
            k if k.binary().is_some() => format!("<op:{text}>"),
            k if k.aggregate().is_some() => format!("<aggr:{text}>"),
            _ => abridged(text),
        }
    }
}

/// Quoted, and cut after ten characters.
fn abridged(text: &str) -> String {
    if text.len() <= 10 {
        return strings::quote(text);
    }
    let end = text.char_indices().nth(10).map_or(text.len(), |(i, _)| i);
    format!("{}...", strings::quote(text.get(..end).unwrap_or(text)))
}
