"""The documents as a site: `make docs OUT=<folder>`."""

project = "mlflow-stack"
copyright = "the authors of mlflow-stack"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "mlflow-stack"
myst_heading_anchors = 3
