"""Client of a served model that requests predictions, with Python's standard library only.

    eval "$(make -s client-env)"
    python examples/predictions/predict.py diabetes "$(pulumi stack output modelUrls --json)"

Reads rows as CSV from standard input, or takes two of scikit-learn's diabetes data; prints a prediction a line.
"""

import base64
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ROWS = """\
age,sex,bmi,bp,s1,s2,s3,s4,s5,s6
0.0381,0.0507,0.0617,0.0219,-0.0442,-0.0348,-0.0434,-0.0026,0.0199,-0.0176
-0.0019,-0.0446,-0.0515,-0.0263,-0.0084,-0.0192,0.0744,-0.0395,-0.0683,-0.0922
"""


def predictions(url: str, rows: str) -> list[float]:
    """Return the model's predictions, one per row. If the server refuses, exit with its message."""
    pair = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Content-Type": "text/csv", "Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    request = urllib.request.Request(f"{url}/invocations", rows.encode(), headers)
    # The certificate authority of the address, if it is not a public one.
    trusted = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    try:
        with urllib.request.urlopen(request, context=trusted) as answer:
            return json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read().decode()}")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    name, urls = sys.argv[1:]
    rows = ROWS if sys.stdin.isatty() else sys.stdin.read() or ROWS
    for prediction in predictions(json.loads(urls)[name], rows):
        print(prediction)


if __name__ == "__main__":
    main()
