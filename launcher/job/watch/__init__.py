"""What a rank writes while it trains: events and metrics."""
