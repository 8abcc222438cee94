"""Host networks that cards are plugged into."""
