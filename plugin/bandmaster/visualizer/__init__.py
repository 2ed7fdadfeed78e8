"""What people look at: reports, and what results say in words."""
