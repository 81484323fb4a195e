"""How fast and how safe the project itself is: programs that measure, and write JSON."""
