"""Maps to look at: pictures, figures, and what notebooks show."""
