# Uses the AWS engine as a Python program would: with hvac alone. Standard input: what to use it with.
import json
import sys

import hvac

given = json.load(sys.stdin)
client = hvac.Client(url=given["url"], token=given["token"])
aws = client.secrets.aws
aws.configure_root_iam_credentials(
    given["access_key"], given["secret_key"], region="us-east-1", iam_endpoint=given["endpoint"], sts_endpoint=given["endpoint"],
)
aws.configure_lease("30m", "12h")
assert aws.read_lease_config()["data"]["lease_max"] == "12h0m0s"
aws.create_or_update_role("user", "iam_user", policy_document=given["policy"])
aws.create_or_update_role("role", "assumed_role", role_arns=[given["role"]])
aws.create_or_update_role("fed", "federation_token", policy_document=given["policy"])
assert aws.read_role("user")["data"]["credential_type"] == "iam_user"
assert sorted(aws.list_roles()["data"]["keys"]) == ["fed", "role", "user"]
made = {
    "user": aws.generate_credentials("user"),
    "role": aws.generate_credentials("role", ttl="20m", endpoint="sts"),
    "creds": aws.generate_credentials("role"),
    "fed": aws.generate_credentials("fed", endpoint="sts"),
}
aws.delete_role("fed")
print(json.dumps({name: [answer["lease_id"], answer["data"]] for name, answer in made.items()}), flush=True)
