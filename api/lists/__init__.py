"""Lists for programs: filtered, sorted and paged rows of a snapshot, as JSON, NDJSON or CSV."""
