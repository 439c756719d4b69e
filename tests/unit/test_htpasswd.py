"""Lines of the password file. tests/process and tests/e2e show that nginx accepts them."""

import base64
import hashlib

from mlflow_stack.access import htpasswd


def test_a_line_is_salted_sha1_and_the_same_every_time() -> None:
    salt = "A" * htpasswd.SALT_LENGTH
    digest = base64.b64encode(hashlib.sha1(b"correct horse" + salt.encode()).digest() + salt.encode()).decode()
    assert htpasswd.line("ann", "correct horse", salt) == f"ann:{{SSHA}}{digest}"
    assert htpasswd.line("ann", "correct horse", salt) == htpasswd.line("ann", "correct horse", salt)
