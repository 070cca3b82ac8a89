"""What the programs beside it share: an error is an answer.

One line of JSON on standard output and exit code 0, whatever the machine has. Another
code means that Python itself, or a package, does not work.
"""

import json


def tried(call, *arguments):
    """What the call returns; what it raises as {"error": "TYPE: WORDS"}."""
    try:
        return call(*arguments)
    # Not all that packages raise comes from one class; some end the program.
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def answer(look):
    """Prints what the machine looks like."""
    print(json.dumps(tried(look)), flush=True)
