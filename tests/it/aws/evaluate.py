# Judges a request of a session by its keys, with the evaluator of MiniStack: the server itself fills in no source identity.
# Standard input: [document, [keys, ...]]; a decision a line.
import json
import sys

from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

document, cases = json.load(sys.stdin)
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
policies = [parse_policy_document(everything), parse_policy_document(document)]
for keys in cases:
    context = EvalContext(
        "arn:aws:iam::1:role/r", "AssumedRole", "1", "s3:GetObject", "arn:aws:s3:::bucket/key", "us-east-1",
        principal_keys={key.lower(): value for key, value in keys.items()},
    )
    print(evaluate(context, policies).decision)
