"""`python -m pmni` is the command line."""

from pmni.cli import main

raise SystemExit(main())
