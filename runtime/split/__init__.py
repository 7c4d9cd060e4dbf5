"""The data plane: prefix graphs on the device, suffix graphs on the edge server, one TCP connection between them."""
