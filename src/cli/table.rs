//! Rows of cells, aligned in columns, or one below the other where a terminal is too narrow.

use super::output::{Style, escape, folded, paint};

/// Columns between two cells.
const GAP: usize = 2;

/// Rows of cells, aligned in columns when shown.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<(Style, String)>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; its cells are escaped here.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(Style, &str); N]) {
        self.rows.push(cells.iter().map(|(style, text)| (*style, escape(text).into_owned())).collect());
    }

    /// As text. Where it is wider than `width`, columns with nothing in them go first, then what stands in
    /// the last one is broken; what is too wide for that is shown row by row.
    pub(super) fn render(&self, colour: bool, width: Option<usize>) -> String {
        let as_it_is = self.aligned(colour, None);
        let Some(width) = width.filter(|width| self.columns().iter().sum::<usize>() > *width) else { return as_it_is };
        if !self.has_header() {
            return self.aligned(colour, Some(width));
        }
        let full = self.without_empty_columns();
        let fits = |text: &str| text.lines().all(|line| line.chars().count() <= width);
        if fits(&full.aligned(false, Some(width))) {
            full.aligned(colour, Some(width))
        } else {
            full.listed(colour, width)
        }
    }

    fn has_header(&self) -> bool {
        self.header.iter().any(|text| !text.is_empty())
    }

    fn lines(&self) -> Vec<Vec<(Style, String)>> {
        let header = self.header.iter().map(|text| (Style::Bold, (*text).to_owned())).collect();
        self.has_header().then_some(header).into_iter().chain(self.rows.iter().cloned()).collect()
    }

    /// The width of each column, with the gap behind it where another follows.
    fn columns(&self) -> Vec<usize> {
        let lines = self.lines();
        let count = lines.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.1.chars().count()).max();
        let gap = |column: usize| if column + 1 < count { GAP } else { 0 };
        (0..count).map(|column| width(column).unwrap_or_default() + gap(column)).collect()
    }

    fn without_empty_columns(&self) -> Self {
        let is_used =
            |column: usize| self.rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.1.is_empty()));
        let used: Vec<usize> = (0..self.header.len()).filter(|column| is_used(*column)).collect();
        Self {
            header: used.iter().filter_map(|column| self.header.get(*column).copied()).collect(),
            rows: self.rows.iter().map(|row| used.iter().filter_map(|n| row.get(*n).cloned()).collect()).collect(),
        }
    }

    fn aligned(&self, colour: bool, width: Option<usize>) -> String {
        let columns = self.columns();
        let mut text = String::new();
        for line in &self.lines() {
            let last = line.iter().rposition(|(_, cell)| !cell.is_empty()).map_or(0, |at| at + 1);
            let mut begins = 0;
            for (column, ((style, cell), taken)) in line.iter().zip(&columns).take(last).enumerate() {
                let ends_line = column + 1 == last;
                let shown = folded(cell, width.filter(|_| ends_line), begins);
                text.push_str(&paint(*style, &shown, colour));
                if !ends_line {
                    text.extend(std::iter::repeat_n(' ', taken - cell.chars().count()));
                }
                begins += taken;
            }
            text.push('\n');
        }
        text
    }

    fn listed(&self, colour: bool, width: usize) -> String {
        let rows = self.rows.iter().map(|row| {
            let named = self.header.iter().zip(row).filter(|(_, (_, cell))| !cell.is_empty());
            let rows = named.map(|(name, cell)| vec![(Style::Bold, (*name).to_owned()), cell.clone()]).collect();
            Self { header: Vec::new(), rows }.aligned(colour, Some(width))
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_coloured_only_where_asked() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row([(Style::Plain, "a\u{1b}b"), (Style::Good, "up")]);
        table.row([(Style::Plain, "long enough name"), (Style::Plain, "")]);
        assert_eq!(table.render(false, None), "NAME              STATE\na\\u{1b}b          up\nlong enough name\n");
        assert!(table.render(true, None).contains("\u{1b}[32mup\u{1b}[0m"));
    }

    #[test]
    fn on_a_narrow_terminal_empty_columns_go_then_the_last_is_broken_then_rows_are_listed() {
        let mut table = Table::new(&["NAME", "NOTHING", "WHAT"]);
        table.row([(Style::Plain, "one"), (Style::Plain, ""), (Style::Good, "aa bb cc dd ee ff gg hh ii")]);
        table.row([(Style::Plain, "two"), (Style::Plain, ""), (Style::Plain, "x")]);
        let all = "NAME  NOTHING  WHAT\none            aa bb cc dd ee ff gg hh ii\ntwo            x\n";
        for width in [None, Some(41)] {
            assert_eq!(table.render(false, width), all, "{width:?}");
        }
        let fewer = "NAME  WHAT\none   aa bb cc dd ee ff gg hh ii\ntwo   x\n";
        assert_eq!(table.render(false, Some(40)), fewer);
        assert_eq!(table.render(false, Some(32)), fewer);
        let broken = "NAME  WHAT\none   aa bb cc dd ee ff gg hh\n      ii\ntwo   x\n";
        assert_eq!(table.render(false, Some(31)), broken);
        assert_eq!(
            table.render(false, Some(20)),
            "NAME  one\nWHAT  aa bb cc dd ee ff gg hh ii\n\nNAME  two\nWHAT  x\n"
        );
        assert!(table.render(true, Some(20)).starts_with("\u{1b}[1mNAME\u{1b}[0m  one\n"));
    }

    #[test]
    fn lines_about_one_thing_are_broken_in_their_last_column() {
        let mut table = Table::new(&[]);
        table.row([(Style::Bold, "why"), (Style::Plain, "it is away, and nobody knows why")]);
        table.row([(Style::Bold, "print"), (Style::Plain, "sha256:0123456789012345678901234567")]);
        let shown = "why    it is away, and nobody knows\n       why\nprint  sha256:0123456789012345678901234567\n";
        assert_eq!(table.render(false, Some(36)), shown);
    }
}
