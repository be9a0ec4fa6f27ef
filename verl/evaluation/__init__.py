"""What repeated attempts at questions say: logs of attempts (`attempts`) and discovery@k (`discovery`).

Numpy only, so that recipes, the trainer and the report on any machine can use it.
"""
