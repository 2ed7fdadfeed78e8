"""What orchestrating takes of a real server: real ``bentoml serve`` processes, asked from a process of its own."""
