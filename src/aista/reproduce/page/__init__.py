"""The page of all exhibits: tables, figures, cases and how they were made, as HTML."""
