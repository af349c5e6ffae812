//! Text in columns, as kubectl's tab writer lays it out.

/// Columns as wide as their widest cell, `gap` blanks apart.
pub fn table(rows: &[Vec<String>], gap: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(i, cell)| format!("{cell:width$}", width = width(i)));
        text += cells.collect::<Vec<_>>().join(&" ".repeat(gap)).trim_end();
        text.push('\n');
    }
    text
}

/// Lines of `key: value`, indented by two blanks a level. The values of lines that follow each other are aligned; a
/// line without a value parts them.
#[derive(Default)]
pub struct Sheet(Vec<(String, Option<String>)>);

impl Sheet {
    pub fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.0.push((format!("{}{}", "  ".repeat(level), text.as_ref()), None));
    }

    pub fn pair(&mut self, level: usize, key: &str, value: impl ToString) {
        let key = format!("{}{key}:", "  ".repeat(level));
        self.0.push((key, Some(value.to_string())));
    }

    /// A key with all its values below each other; without any, `<none>`.
    pub fn list(&mut self, level: usize, key: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter();
        self.pair(level, key, values.next().as_deref().unwrap_or("<none>"));
        self.0.extend(values.map(|value| (String::new(), Some(value))));
    }
}

impl std::fmt::Display for Sheet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for run in self.0.chunk_by(|a, b| a.1.is_some() == b.1.is_some()) {
            let width = run.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0) + 2;
            for (key, value) in run {
                match value {
                    Some(value) => writeln!(f, "{}", format!("{key:width$}{value}").trim_end())?,
                    None => writeln!(f, "{key}")?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "B"], ["longer", ""], ["x", "y"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, 3), "A        B\nlonger\nx        y\n");
    }

    #[test]
    fn values_are_aligned_up_to_a_line_without_one() {
        let mut sheet = Sheet::default();
        sheet.pair(0, "A", "1");
        sheet.pair(1, "Longer", "2");
        sheet.list(0, "L", ["x".to_owned(), "y".to_owned()]);
        sheet.line(0, "Next:");
        sheet.list(1, "N", []);
        let text = "A:         1\n  Longer:  2\nL:         x\n           y\nNext:\n  N:  <none>\n";
        assert_eq!(sheet.to_string(), text);
    }
}
