//! A blocking HTTP/1.1 client over one kept-open socket: enough to see exactly what a server answers.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as sent.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, or `""`.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// A client of one server.
pub struct Client {
    address: SocketAddr,
    open: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client; it connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, open: None }
    }

    /// One request and its answer. A kept connection that the server has closed meanwhile is opened anew.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        let was_open = self.open.is_some();
        let first = self.once(method, path, headers, body);
        match first {
            Err(e) if was_open && e.kind() != ErrorKind::WouldBlock => self.once(method, path, headers, body),
            other => other,
        }
    }

    /// One request on the present connection or a new one, never sent twice.
    pub fn once(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        let mut reader = match self.open.take() {
            Some(open) => open,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_write_timeout(Some(SILENCE_MAX))?;
                BufReader::new(stream)
            }
        };
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", self.address, body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        // A server may answer before it has read the whole body (too large, wrong type): what it says still counts.
        let sent = reader.get_mut().write_all(&bytes);
        let (response, keep) = match (read_response(&mut reader), sent) {
            (Ok(r), Ok(())) => r,
            (Ok((r, _)), Err(_)) => (r, false),
            (Err(_), Err(e)) | (Err(e), Ok(())) => return Err(e),
        };
        if keep {
            self.open = Some(reader);
        }
        Ok(response)
    }

    /// GET with parameters.
    pub fn get(&mut self, path: &str, parameters: &[(&str, &str)]) -> Result<Response> {
        let sign = if parameters.is_empty() { "" } else { "?" };
        self.request("GET", &format!("{path}{sign}{}", form(parameters)), &[], b"")
    }

    /// POST with a form.
    pub fn post(&mut self, path: &str, parameters: &[(&str, &str)]) -> Result<Response> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.request("POST", path, &headers, form(parameters).as_bytes())
    }
}

/// `a=b&c=d`, escaped.
pub fn form(parameters: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for b in text.bytes() {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    };
    let pairs: Vec<_> = parameters.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
    pairs.join("&")
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut out = Vec::new();
    if reader.read_until(b'\n', &mut out)? == 0 {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    while out.last().is_some_and(|b| b"\r\n".contains(b)) {
        out.pop();
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn exactly(reader: &mut impl Read, n: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; n];
    reader.read_exact(&mut out)?;
    Ok(out)
}

fn read_response(reader: &mut impl BufRead) -> Result<(Response, bool)> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let status_line = line(reader)?;
    let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad(&status_line))?;
    let mut headers = Vec::new();
    loop {
        let text = line(reader)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad(&text))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    let keep = !response.header("connection").eq_ignore_ascii_case("close");
    if response.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        loop {
            let size = line(reader)?;
            let size = size.split(';').next().unwrap_or("").trim();
            let n = usize::from_str_radix(size, 16).map_err(|_| bad("chunk size"))?;
            response.body.extend(exactly(reader, n)?);
            line(reader)?;
            if n == 0 {
                break;
            }
        }
    } else if let Ok(n) = response.header("content-length").parse() {
        response.body = exactly(reader, n)?;
    } else if status != 204 && status != 304 {
        reader.read_to_end(&mut response.body)?;
        return Ok((response, false));
    }
    Ok((response, keep))
}
