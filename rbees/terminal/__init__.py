"""What people see: tables, waiting, errors, and JSON for programs. Data goes to stdout, everything else to stderr."""
