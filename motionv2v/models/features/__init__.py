"""Networks whose features metrics compare: they read pictures and are never trained here."""
