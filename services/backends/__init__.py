"""How a role asks other roles: their addresses, connections, pools, and one way to ask."""
