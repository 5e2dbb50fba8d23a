# bao proxy -config=proxy.hcl: applications on this machine read without a token of their own.
vault {
  address = "https://bao.example.com:8200"
}

auto_auth {
  method {
    type = "approle"
    config = {
      role_id_file_path                   = "/etc/leasehold/role-id"
      secret_id_file_path                 = "/etc/leasehold/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

api_proxy {
  use_auto_auth_token = true
}

# One lease for everybody who reads here, renewed by the proxy. Without this each read is a user of its own.
cache {}

listener "tcp" {
  address     = "127.0.0.1:8100"
  tls_disable = true
}
