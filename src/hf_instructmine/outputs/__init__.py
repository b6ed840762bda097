"""Everything that is written, one way each: files, folders, records, Markdown, the Hub. Knows only the errors."""
