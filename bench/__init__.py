"""The benchmarks: every claim about speed has its address here. How to run them and how to read them: README.md.

Each module beside this one is a benchmark (`python -m bench.NAME`); kit/ is what they share, references/ what tracker is
compared with. They start the real thing (processes, sockets, PostgreSQL) and check afterwards that nothing was lost; a fast
answer that kept nothing is no result. Nothing of tracker imports from here.
"""
