"""The shelf: every file here stands alone, and may be copied alone."""
