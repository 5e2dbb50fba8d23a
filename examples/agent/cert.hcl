# bao agent -config=cert.hcl
vault {
  address     = "https://bao.example.com:8200"
  ca_cert     = "/etc/leasehold/ca.pem"
  client_cert = "/etc/leasehold/client.pem"
  client_key  = "/etc/leasehold/client-key.pem"
  retry {
    num_retries = 12
  }
}

auto_auth {
  method {
    type = "cert"
    config = {
      name        = "app"
      ca_cert     = "/etc/leasehold/ca.pem"
      client_cert = "/etc/leasehold/client.pem"
      client_key  = "/etc/leasehold/client-key.pem"
    }
  }
}

template_config {
  # Leases are renewed; what cannot be renewed is read anew.
  static_secret_render_interval = "5m"
  # A database that is away is waited for; the file stays as it is.
  exit_on_retry_failure = false
}

template {
  destination = "/run/leasehold/database.env"
  perms       = "0600"
  contents    = <<EOT
{{ with secret "database/creds/app" -}}
DB_USERNAME={{ .Data.username }}
DB_PASSWORD={{ .Data.password }}
{{ end -}}
EOT
}
