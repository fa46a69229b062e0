"""The composition root: builds edge and control from settings, starts them and stops them in order.

edge.py is one worker, control.py the slow half, supervisor.py the parent of workers, roles.py what each command runs.
"""
