"""How a role asks other roles: addresses, connections, pools, and one way to ask."""
