"""Takes the money for what the shop has checked out, while its payment gateway is up."""
