//! How much memory a JSON text asks for, told before it is parsed.
//!
//! A parser makes a value of every `{}` and `0`, and some of them take a hundred times their text: a few MB of
//! JSON can fill the memory of a device. So what stands outside strings is counted first.

/// What may be spent on the JSON of one file, in bytes of memory.
#[derive(Debug)]
pub struct JsonBudget {
    limit: u64,
    left: u64,
}

/// A JSON text takes more memory than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("to read its JSON would take more than {} MiB of memory", .limit >> 20)]
pub struct OverBudget {
    /// The most bytes of memory.
    pub limit: u64,
}

impl JsonBudget {
    /// A budget of so many bytes of memory.
    pub fn new(limit: u64) -> Self {
        JsonBudget { limit, left: limit }
    }

    /// Takes what parsing a text costs; it may hold anything.
    ///
    /// # Errors
    /// When that is more than is left.
    pub fn take(&mut self, text: &[u8]) -> Result<(), OverBudget> {
        self.left = self.left.checked_sub(cost(text)).ok_or(OverBudget { limit: self.limit })?;
        Ok(())
    }

    /// Takes what parsing the header of a safetensors file costs; one that is not there, or cut, costs nothing.
    ///
    /// # Errors
    /// When that is more than is left.
    pub fn take_header(&mut self, file: &[u8]) -> Result<(), OverBudget> {
        let length = file.first_chunk().and_then(|length| usize::try_from(u64::from_le_bytes(*length)).ok());
        match length.and_then(|length| file.get(8..)?.get(..length)) {
            Some(header) => self.take(header),
            None => Ok(()),
        }
    }
}

/// What parsing a text takes at most, whatever it is parsed into: strings a few times their length; for each `{`
/// a map's first node (11 keys and values) and the list that serde keeps of a map's entries where it must look
/// ahead; for each other mark a value in a list that grew to twice its length, or its share of a map's nodes.
fn cost(text: &[u8]) -> u64 {
    let (mut cost, mut quoted, mut escaped) = (4 * text.len() as u64, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' if !quoted => cost += 1024,
            b'[' | b',' | b':' if !quoted => cost += 256,
            _ => {}
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_strings_costs_its_length_alone() {
        let cases = [
            (r#""a{b[c,d:e\"{\\""#, 0),
            ("[1,2]", 512),
            (r#"{"a\"{":"b","c":[{}]}"#, 1024 + 2 * 256 + 256 + 256 + 1024),
        ];
        for (text, marks) in cases {
            assert_eq!(cost(text.as_bytes()), 4 * text.len() as u64 + marks, "{text}");
        }
    }

    #[test]
    fn texts_of_one_file_share_a_budget() {
        let mut budget = JsonBudget::new(2 << 20);
        let text = format!("[{}0]", "0,".repeat(4000));
        assert_eq!(budget.take(text.as_bytes()), Ok(()));
        let error = budget.take(text.as_bytes()).unwrap_err();
        assert_eq!(error, OverBudget { limit: 2 << 20 });
        assert!(error.to_string().contains("2 MiB"), "{error}");
    }

    #[test]
    fn a_header_costs_what_its_json_does() {
        let file = [&7u64.to_le_bytes()[..], b"{\"a\":0}", &[0; 10]].concat();
        for (file, left) in
            [(&file[..], 2000 - 4 * 7 - 1024 - 256), (&file[..14], 2000), (b"\xff", 2000), (&[0xff; 9], 2000)]
        {
            let mut budget = JsonBudget::new(2000);
            budget.take_header(file).unwrap();
            assert_eq!(budget.left, left);
        }
    }
}
