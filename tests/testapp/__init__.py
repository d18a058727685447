"""Models to send signals from. There are no migrations: the tables follow the models."""
