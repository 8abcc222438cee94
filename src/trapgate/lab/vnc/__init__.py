"""A VNC server: the screen by the RFB protocol 3.8 (RFC 6143). Begin with `server.py`, then `client.py`."""
