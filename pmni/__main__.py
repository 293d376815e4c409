"""`python -m pmni` is the command line."""

from pmni.cli.main import main

raise SystemExit(main())
