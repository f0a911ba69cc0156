"""What the audit log takes a second, and how late, beside logs that prove less."""
