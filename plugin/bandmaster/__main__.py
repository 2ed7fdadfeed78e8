"""``python -m bandmaster`` is ``bandmaster``."""

from bandmaster.cli import main

main(prog_name="bandmaster")
