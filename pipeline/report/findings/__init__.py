"""What the report says of the results: numbers as text, rows and sentences, for the page and RESULTS.md alike."""
