"""From scores and maps to figures."""
