//! Text to tokens, one at a time, never further ahead than the parser asks.
//!
//! What a character means depends on where it stands: inside braces every word is an identifier, inside brackets only
//! numbers, durations, operators and a few words are allowed, and a colon once. The lexer keeps those few flags; all else
//! is the parser's. A token borrows from the text; an error carries its message and ends the stream.

use super::strings;
use super::token::{Kind, Token, keyword};

/// A refusal: message and the byte it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LexError {
    pub message: String,
    pub pos: usize,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    /// Next byte to read.
    at: usize,
    /// First byte of the token being read.
    start: usize,
    /// After `[`, up to the first number.
    in_duration: bool,
    /// Start of the token read last, comments included.
    last_start: usize,
    utf8_names: bool,
    paren_depth: i64,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
}

type Lexed<'a> = Result<Option<Token<'a>>, LexError>;

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, utf8_names: bool) -> Self {
        Self {
            text,
            at: 0,
            start: 0,
            in_duration: false,
            last_start: 0,
            utf8_names,
            paren_depth: 0,
            brace_open: false,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
        }
    }

    /// The next token that is not a comment; at the end `Kind::Eof`, again and again.
    pub fn next_token(&mut self) -> Result<Token<'a>, LexError> {
        loop {
            let step = if self.in_duration {
                self.duration()
            } else if self.brace_open {
                self.braces()
            } else {
                self.statements()
            };
            if let Some(t) = step? {
                self.last_start = t.pos;
                return Ok(t);
            }
        }
    }

    /// Where an expression ended whose end was only known after one more `)` had been read: just past the `)` before that
    /// one, if nothing but blanks lies between; otherwise `fallback`.
    pub fn previous_right_paren(&self, fallback: usize) -> usize {
        let bytes = self.text.as_bytes();
        if fallback == 0 || self.last_start == 0 || bytes.get(self.last_start) != Some(&b')') {
            return fallback;
        }
        for i in (1..self.last_start).rev() {
            match bytes.get(i) {
                Some(b')') => return i + 1,
                Some(b' ' | b'\t' | b'\n' | b'\r') => {}
                _ => return fallback,
            }
        }
        fallback
    }

    fn peek(&self) -> Option<char> {
        match self.text.as_bytes().get(self.at) {
            None => None,
            Some(b) if b.is_ascii() => Some(char::from(*b)),
            Some(_) => self.text.get(self.at..).and_then(|t| t.chars().next()),
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, test: impl Fn(char) -> bool) -> bool {
        match self.peek() {
            Some(c) if test(c) => {
                self.at += c.len_utf8();
                true
            }
            _ => false,
        }
    }

    fn accept_run(&mut self, test: impl Fn(char) -> bool) {
        while self.accept(&test) {}
    }

    fn word(&self) -> &'a str {
        self.text.get(self.start..self.at).unwrap_or("")
    }

    fn emit(&mut self, kind: Kind) -> Lexed<'a> {
        let token = Token { kind, pos: self.start, text: self.word() };
        self.start = self.at;
        Ok(Some(token))
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, LexError> {
        Err(LexError { message: message.into(), pos: self.start })
    }

    fn spaces(&mut self) {
        self.accept_run(is_space);
        self.start = self.at;
    }

    fn comment(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or(&[]);
        self.last_start = self.start;
        self.at += rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
        self.start = self.at;
    }

    fn statements(&mut self) -> Lexed<'a> {
        if self.peek() == Some('#') {
            self.comment();
            return Ok(None);
        }
        let Some(c) = self.next() else {
            if self.paren_depth != 0 {
                return self.fail("unclosed left parenthesis");
            }
            if self.bracket_open {
                return self.fail("unclosed left bracket");
            }
            return self.emit(Kind::Eof);
        };
        match c {
            ',' => self.emit(Kind::Comma),
            c if is_space(c) => {
                self.spaces();
                Ok(None)
            }
            '*' => self.emit(Kind::Mul),
            '/' => self.emit(Kind::Div),
            '%' => self.emit(Kind::Mod),
            '+' => self.emit(Kind::Add),
            '-' => self.emit(Kind::Sub),
            '^' => self.emit(Kind::Pow),
            '@' => self.emit(Kind::At),
            '=' => match self.peek() {
                Some('=') => {
                    self.next();
                    self.emit(Kind::Eql)
                }
                Some('~') => self.fail("unexpected character after '=': '~'"),
                _ => self.emit(Kind::Assign),
            },
            '!' => match self.next() {
                Some('=') => self.emit(Kind::Neq),
                other => self.fail(format!("unexpected character after '!': {}", strings::quote_char(other))),
            },
            '<' => {
                let kind = match self.peek() {
                    Some('=') => Kind::Lte,
                    Some('/') => Kind::TrimUpper,
                    _ => Kind::Lss,
                };
                if kind != Kind::Lss {
                    self.next();
                }
                self.emit(kind)
            }
            '>' => {
                let kind = match self.peek() {
                    Some('=') => Kind::Gte,
                    Some('/') => Kind::TrimLower,
                    _ => Kind::Gtr,
                };
                if kind != Kind::Gtr {
                    self.next();
                }
                self.emit(kind)
            }
            c if self.starts_number(c) => {
                self.at = self.start;
                self.number_or_duration()
            }
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            c if c == ':' || self.is_name_start(c) => {
                if !self.bracket_open {
                    return self.keyword_or_identifier();
                }
                if c == ':' {
                    if self.got_colon {
                        return self.fail("unexpected colon ':'");
                    }
                    self.got_colon = true;
                    return self.emit(Kind::Colon);
                }
                match self.duration_keyword(c) {
                    Some(kind) => self.emit(kind),
                    None => self.fail(format!("unexpected character: {}, expected ':'", strings::quote_char(Some(c)))),
                }
            }
            '(' => self.left_paren(),
            ')' => self.right_paren(),
            '{' => {
                self.brace_open = true;
                self.emit(Kind::LeftBrace)
            }
            '[' => {
                if self.bracket_open {
                    return self.fail("unexpected left bracket '['");
                }
                self.got_colon = false;
                self.got_duration = false;
                self.bracket_open = true;
                self.in_duration = true;
                let token = self.emit(Kind::LeftBracket);
                self.spaces();
                token
            }
            ']' => {
                if !self.bracket_open {
                    return self.fail("unexpected right bracket ']'");
                }
                self.bracket_open = false;
                self.emit(Kind::RightBracket)
            }
            c => self.fail(format!("unexpected character: {}", strings::quote_char(Some(c)))),
        }
    }

    fn left_paren(&mut self) -> Lexed<'a> {
        self.paren_depth += 1;
        self.emit(Kind::LeftParen)
    }

    fn right_paren(&mut self) -> Lexed<'a> {
        self.paren_depth -= 1;
        let token = self.emit(Kind::RightParen);
        if self.paren_depth < 0 { self.fail("unexpected right parenthesis ')'") } else { token }
    }

    fn braces(&mut self) -> Lexed<'a> {
        if self.peek() == Some('#') {
            self.comment();
            return Ok(None);
        }
        let Some(c) = self.next() else {
            return self.fail("unexpected end of input inside braces");
        };
        match c {
            c if is_space(c) => {
                self.spaces();
                Ok(None)
            }
            c if self.is_name_start(c) => {
                let utf8 = self.utf8_names;
                self.accept_run(|c| is_name_continue(c, utf8));
                self.emit(Kind::Identifier)
            }
            ',' => self.emit(Kind::Comma),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '=' => {
                if self.accept(|c| c == '~') {
                    self.emit(Kind::EqlRegex)
                } else {
                    self.emit(Kind::Assign)
                }
            }
            '!' => match self.next() {
                Some('~') => self.emit(Kind::NeqRegex),
                Some('=') => self.emit(Kind::Neq),
                other => {
                    self.fail(format!("unexpected character after '!' inside braces: {}", strings::quote_char(other)))
                }
            },
            '{' => self.fail("unexpected left brace '{'"),
            '}' => {
                self.brace_open = false;
                self.emit(Kind::RightBrace)
            }
            c => self.fail(format!("unexpected character inside braces: {}", strings::quote_char(Some(c)))),
        }
    }

    fn duration(&mut self) -> Lexed<'a> {
        let Some(c) = self.next() else {
            return self.fail("unexpected end of input in duration expression");
        };
        match c {
            ']' => {
                self.bracket_open = false;
                self.got_colon = false;
                self.in_duration = false;
                self.emit(Kind::RightBracket)
            }
            ':' => {
                let token = self.emit(Kind::Colon);
                if !self.got_duration {
                    return self.fail("unexpected colon before duration in duration expression");
                }
                if self.got_colon {
                    return self.fail("unexpected repeated colon in duration expression");
                }
                self.got_colon = true;
                token
            }
            '(' => self.left_paren(),
            ')' => self.right_paren(),
            c if is_space(c) => {
                self.spaces();
                Ok(None)
            }
            '+' => self.emit(Kind::Add),
            '-' => self.emit(Kind::Sub),
            '*' => self.emit(Kind::Mul),
            '/' => self.emit(Kind::Div),
            '%' => self.emit(Kind::Mod),
            '^' => self.emit(Kind::Pow),
            ',' => self.emit(Kind::Comma),
            c if self.starts_number(c) => {
                self.at = self.start;
                self.got_duration = true;
                self.in_duration = false;
                self.number_or_duration()
            }
            c => match self.duration_keyword(c) {
                Some(kind) => {
                    self.got_duration = true;
                    self.emit(kind)
                }
                None => {
                    self.fail(format!("unexpected character in duration expression: {}", strings::quote_char(Some(c))))
                }
            },
        }
    }

    /// `step`, `range`, `max_of` and `min_of`, whose first letter has been read.
    fn duration_keyword(&mut self, first: char) -> Option<Kind> {
        if !matches!(first.to_ascii_lowercase(), 's' | 'r' | 'm') {
            return None;
        }
        self.accept_run(is_alpha);
        match keyword(self.word()) {
            Some(k @ (Kind::Step | Kind::Range | Kind::MaxOf | Kind::MinOf)) => Some(k),
            _ => None,
        }
    }

    fn keyword_or_identifier(&mut self) -> Lexed<'a> {
        let utf8 = self.utf8_names;
        self.accept_run(|c| c == ':' || is_name_continue(c, utf8));
        let word = self.word();
        match keyword(word) {
            // As a metric name they stay usable: a modifier is followed by a parenthesis.
            Some(Kind::Fill | Kind::FillLeft | Kind::FillRight) if !self.left_paren_follows() => {
                self.emit(Kind::Identifier)
            }
            Some(kind) => self.emit(kind),
            None if word.contains(':') => self.emit(Kind::MetricIdentifier),
            None => self.emit(Kind::Identifier),
        }
    }

    fn left_paren_follows(&self) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or(&[]);
        rest.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')) == Some(&b'(')
    }

    fn starts_number(&self, first: char) -> bool {
        first.is_ascii_digit() || (first == '.' && self.peek().is_some_and(|c| c.is_ascii_digit()))
    }

    fn number_or_duration(&mut self) -> Lexed<'a> {
        if self.scan_number() {
            return self.emit(Kind::Number);
        }
        if self.scan_duration_rest() {
            return self.emit(Kind::Duration);
        }
        self.fail(format!("bad number or duration syntax: {}", strings::quote(self.word())))
    }

    /// A number in any notation; that it has a value is checked later. Stops where it stops being one.
    fn scan_number(&mut self) -> bool {
        let begin = self.at;
        let mut hex = false;
        if self.accept(|c| c == '0') && self.accept(|c| matches!(c, 'x' | 'X')) {
            self.accept(|c| c == '_');
            hex = true;
        }
        let digit = move |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        let is_exponent = |c: char| matches!(c, 'e' | 'E');
        self.accept(|c| c == '.');
        self.accept(digit);
        let (mut dot, mut exponent) = (false, false);
        while self.peek().is_some_and(|c| digit(c) || matches!(c, '.' | '_' | 'e' | 'E')) {
            if dot && self.accept(|c| c == '.') || exponent && self.accept(is_exponent) {
                return false;
            }
            if self.accept(|c| c == '.') {
                dot = true;
                if self.accept(|c| matches!(c, '_' | '.')) || hex {
                    return false;
                }
            } else if self.accept(is_exponent) {
                exponent = true;
                self.accept(|c| matches!(c, '+' | '-'));
                if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else if self.accept(|c| c == '_') {
                if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else {
                self.accept_run(digit);
            }
        }
        self.at != begin && !self.peek().is_some_and(is_alphanumeric)
    }

    /// The unit of the number just read, and further numbers with units.
    fn scan_duration_rest(&mut self) -> bool {
        if !self.accept(|c| matches!(c, 's' | 'm' | 'h' | 'd' | 'w' | 'y')) {
            return false;
        }
        self.accept(|c| c == 's');
        while self.accept(|c| c.is_ascii_digit()) {
            self.accept_run(|c| c.is_ascii_digit());
            if !self.accept(|c| matches!(c, 's' | 'm' | 'h' | 'd' | 'w')) {
                return false;
            }
            self.accept(|c| c == 's');
        }
        !self.accept(is_alphanumeric)
    }

    fn string(&mut self, quote: char) -> Lexed<'a> {
        loop {
            match self.next() {
                Some('\\') => self.escape(quote)?,
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune"),
                None | Some('\n') => return self.fail("unterminated quoted string"),
                Some(c) if c == quote => return self.emit(Kind::String),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Lexed<'a> {
        loop {
            match self.next() {
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune"),
                None => return self.fail("unterminated raw string"),
                Some('`') => return self.emit(Kind::String),
                Some(_) => {}
            }
        }
    }

    /// Checks an escape sequence whose backslash has been read.
    fn escape(&mut self, quote: char) -> Result<(), LexError> {
        let Some(c) = self.next() else {
            return self.fail("escape sequence not terminated");
        };
        let (count, base, max, mut digit) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            c if c == quote => return Ok(()),
            '0'..='7' => (3, 8, 255, Some(c)),
            'x' => (2, 16, 255, self.next()),
            'u' => (4, 16, u32::from(char::MAX), self.next()),
            'U' => (8, 16, u32::from(char::MAX), self.next()),
            c => return self.fail(format!("unknown escape sequence {}", strings::unicode_name(c))),
        };
        let mut value: u32 = 0;
        for i in 0..count {
            if i > 0 {
                digit = self.next();
            }
            let Some(c) = digit else {
                return self.fail("escape sequence not terminated");
            };
            let Some(d) = c.to_digit(base) else {
                return self.fail(format!("illegal character {} in escape sequence", strings::unicode_name(c)));
            };
            value = value.wrapping_mul(base).wrapping_add(d);
        }
        if value > max || (0xD800..0xE000).contains(&value) {
            return self.fail("escape sequence is an invalid Unicode code point");
        }
        Ok(())
    }

    fn is_name_start(&self, c: char) -> bool {
        is_name_start(c, self.utf8_names)
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

fn is_name_start(c: char, utf8: bool) -> bool {
    is_alpha(c) || (utf8 && !c.is_ascii() && strings::is_letter(c))
}

fn is_name_continue(c: char, utf8: bool) -> bool {
    is_name_start(c, utf8) || c.is_ascii_digit() || (utf8 && c == '.')
}

/// Must a label name be quoted where it is written? `utf8`: letters of any script and dots need no quotes.
pub(super) fn needs_quotes(name: &str, utf8: bool) -> bool {
    let mut chars = name.chars();
    match chars.next() {
        None => true,
        Some(c) => !is_name_start(c, utf8) || !chars.all(|c| is_name_continue(c, utf8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<Kind>, LexError> {
        let mut lexer = Lexer::new(text, false);
        let mut out = Vec::new();
        loop {
            let t = lexer.next_token()?;
            if t.kind == Kind::Eof {
                return Ok(out);
            }
            out.push(t.kind);
        }
    }

    #[test]
    fn words_depend_on_where_they_stand() {
        use Kind::*;
        assert_eq!(kinds("sum{sum=\"a\"}").unwrap(), [Sum, LeftBrace, Identifier, Assign, String, RightBrace]);
        assert_eq!(kinds("x[step()]").unwrap(), [Identifier, LeftBracket, Step, LeftParen, RightParen, RightBracket]);
        assert_eq!(kinds("fill + fill(").unwrap_err().message, "unclosed left parenthesis");
        assert_eq!(kinds("fill fill").unwrap(), [Identifier, Identifier]);
        assert_eq!(kinds("InF a:b").unwrap(), [Number, MetricIdentifier]);
    }

    #[test]
    fn numbers_and_durations() {
        use Kind::*;
        for n in ["1", ".5", "1.", "0x1f", "1e3", "1E-3", "1_000", "0755"] {
            assert_eq!(kinds(n).unwrap(), [Number], "{n}");
        }
        for d in ["5m", "1h30m", "1d12h", "100ms", "1y2w"] {
            assert_eq!(kinds(d).unwrap(), [Duration], "{d}");
        }
        for bad in ["1x", "1__0", "1e", "0x1.5", "5mm5", "1..2"] {
            assert!(kinds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_end_the_stream_where_they_are() {
        assert_eq!(kinds("a )").unwrap_err(), LexError { message: "unexpected right parenthesis ')'".into(), pos: 3 });
        assert_eq!(kinds("\"\\q\"").unwrap_err().message, "unknown escape sequence U+0071 'q'");
        assert_eq!(kinds("a[:5m]").unwrap_err().pos, 3);
    }
}
