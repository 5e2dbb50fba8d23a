"""Reads a credential, renews it, gives it back. BAO_ADDR, BAO_TOKEN; mount and role are the arguments."""

import os
import sys

import hvac

client = hvac.Client(url=os.environ["BAO_ADDR"], token=os.environ["BAO_TOKEN"])
mount, role = sys.argv[1:3]
read = client.secrets.database.generate_credentials(name=role, mount_point=mount)
print(read["data"]["username"])
renewed = client.sys.renew_lease(lease_id=read["lease_id"])
assert renewed["lease_duration"] > 0, renewed
client.sys.revoke_lease(lease_id=read["lease_id"])
