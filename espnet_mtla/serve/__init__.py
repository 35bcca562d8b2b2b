"""A server that transcribes by HTTP, for many clients at once.

:mod:`.engine` decodes the requests of all clients in one running batch; the other
modules are its HTTP side. Importing the package imports nothing else.
"""
