"""What every law is computed with; nothing here knows of one."""
