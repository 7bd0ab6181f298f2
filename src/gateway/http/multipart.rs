//! Forms sent as `multipart/form-data` (RFC 7578): what browsers and `curl -F` send.
//!
//! Parts with a file name are files and no parameters, as Go's `http` package has it: they are left out.

use super::error::ApiError;
use super::media_type::MediaType;

/// Parts of a form at most.
const PARTS_MAX: usize = 1_000;

/// Appends the fields of a form to `out`.
pub fn decode(body: &[u8], media_type: &MediaType, out: &mut Vec<(String, String)>) -> Result<(), ApiError> {
    let boundary = media_type.parameter("boundary").filter(|b| (1..=70).contains(&b.len()));
    let boundary = boundary.ok_or_else(|| wrong("the content type has no boundary of 1 to 70 characters"))?;
    let delimiter = format!("--{boundary}");
    let mut rest =
        first_part(body, delimiter.as_bytes()).ok_or_else(|| wrong("the body does not start with the boundary"))?;
    let delimiter = format!("\r\n{delimiter}");
    for _ in 0..PARTS_MAX {
        // Behind a delimiter: two hyphens after the last one, else the end of the line (RFC 2046 allows blanks before it).
        if rest.starts_with(b"--") {
            return Ok(());
        }
        let blanks = rest.iter().take_while(|b| b" \t".contains(b)).count();
        let part =
            rest[blanks..].strip_prefix(b"\r\n").ok_or_else(|| wrong("a boundary is not followed by a new line"))?;
        // A part without headers begins with the empty line that ends them.
        let end = find(part, delimiter.as_bytes()).ok_or_else(|| wrong("the body ends inside a part"))?;
        field(&part[..end], out)?;
        rest = &part[end + delimiter.len()..];
    }
    Err(wrong("more than 1000 parts"))
}

fn wrong(what: &str) -> ApiError {
    ApiError::bad_data(format!("error parsing multipart form: {what}"))
}

/// What is behind the first delimiter, which stands at the beginning of the body or of a line.
fn first_part<'a>(body: &'a [u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = body.strip_prefix(delimiter) {
        return Some(rest);
    }
    let line = [b"\r\n", delimiter].concat();
    find(body, &line).map(|at| &body[at + line.len()..])
}

/// A part: headers, an empty line, the value.
fn field(part: &[u8], out: &mut Vec<(String, String)>) -> Result<(), ApiError> {
    let (head, value) = match part.strip_prefix(b"\r\n") {
        Some(value) => (&[][..], value),
        None => {
            let end = find(part, b"\r\n\r\n").ok_or_else(|| wrong("the headers of a part do not end"))?;
            (&part[..end], &part[end + 4..])
        }
    };
    let head = std::str::from_utf8(head).map_err(|_| wrong("the headers of a part are not valid UTF-8"))?;
    let mut name = None;
    for line in head.split("\r\n").filter(|l| !l.is_empty()) {
        let (header, text) = line.split_once(':').ok_or_else(|| wrong("a header of a part has no colon"))?;
        if header.eq_ignore_ascii_case("content-disposition") {
            // `form-data; name="…"` is written as a media type is, but for the slash.
            let text = format!("form/{}", text.trim());
            let disposition =
                MediaType::parse(&text).map_err(|_| wrong("a part has an invalid Content-Disposition"))?;
            if disposition.essence != "form/form-data" || disposition.parameter("filename").is_some() {
                return Ok(());
            }
            name = disposition.parameter("name").map(str::to_owned);
        } else if header.eq_ignore_ascii_case("content-transfer-encoding")
            && !["7bit", "8bit", "binary"].contains(&text.trim().to_ascii_lowercase().as_str())
        {
            return Err(wrong("a part has a Content-Transfer-Encoding, which is not supported"));
        }
    }
    if let Some(name) = name.filter(|n| !n.is_empty()) {
        let value = std::str::from_utf8(value).map_err(|_| wrong("a value is not valid UTF-8"))?;
        out.push((name, value.to_owned()));
    }
    Ok(())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    // Lines are short and begin with CR: only there is compared.
    let first = *what.first()?;
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.iter().position(|b| *b == first)?;
        if text[at..].starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<(String, String)>, String> {
        let media_type = MediaType::parse("multipart/form-data; boundary=\"x y\"").unwrap();
        let mut out = Vec::new();
        decode(body.as_bytes(), &media_type, &mut out).map_err(|e| e.text).map(|()| out)
    }

    #[test]
    fn fields_of_a_form() {
        let body = "preamble\r\n--x y\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nup{a=\"\r\n--x z\"}\r\n\
            --x y \t\r\ncontent-disposition:form-data;name=time\r\nContent-Type: text/plain\r\n\r\n5\r\n\
            --x y\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nfile\r\n\
            --x y\r\n\r\nno name\r\n--x y\r\nContent-Disposition: form-data; name=\"e\"\r\n\r\n\r\n--x y--\r\nepilogue";
        let pairs = [("query", "up{a=\"\r\n--x z\"}"), ("time", "5"), ("e", "")];
        assert_eq!(read(body), Ok(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()));
        assert_eq!(read("--x y--\r\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_form_is_an_error() {
        let part = |head: &str| format!("--x y\r\n{head}\r\n\r\nv\r\n--x y--");
        for body in [
            String::new(),
            "--other\r\n".into(),
            "--x y\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nv".into(),
            "--x y\r\nContent-Disposition: form-data; name=\"a\"\r\n--x y--".into(),
            "--x yz\r\n\r\n\r\n--x y--".into(),
            part("Content-Disposition: form-data; name=\"a"),
            part("Content-Disposition: form-data; name=\"a\"; name=\"b\""),
            part("no colon"),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64"),
            "--x y\r\n\r\n\r\n".repeat(PARTS_MAX + 1),
        ] {
            assert!(read(&body).unwrap_err().starts_with("error parsing multipart form: "), "{body}");
        }
        let without = MediaType::parse("multipart/form-data").unwrap();
        assert!(decode(b"--\r\n", &without, &mut Vec::new()).is_err());
        let mut invalid = b"--x y\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--x y--".to_vec();
        let media_type = MediaType::parse("multipart/form-data; boundary=\"x y\"").unwrap();
        assert!(decode(&invalid, &media_type, &mut Vec::new()).is_err());
        invalid.retain(|b| *b != 0xff);
        assert!(decode(&invalid, &media_type, &mut Vec::new()).is_ok());
    }
}
