"""Settings of the web server: `gunicorn --config python:project.server project.wsgi`."""

# One process with threads, not several: the page's switch connects and disconnects a receiver, and as with Django's own
# signals that is true of one process.
workers = 1
threads = 8

graceful_timeout = 3

# Its remote control is a socket in the home directory, which two demos would share. Older versions have none.
control_socket_disable = True
