# Declarative registration (OpenBao 2.4 and later): goes into the server's configuration, the same on every node. The
# server puts the plugin into its catalogue when it is unsealed, and again on SIGHUP.

# A directory, not a symbolic link to one; the binary lies directly in it.
plugin_directory     = "/usr/lib/openbao/plugins"
plugin_auto_register = true

plugin "secret" "leasehold-database" {
  command   = "leasehold"
  args      = ["database"]
  # What the binary reports (`leasehold version`).
  version   = "v0.1.0"
  # sha256sum /usr/lib/openbao/plugins/leasehold
  sha256sum = "0000000000000000000000000000000000000000000000000000000000000000"
}

# Or from an OCI image (Containerfile), fetched by the server itself:
#
# plugin_auto_download = true
#
# plugin "secret" "leasehold-database" {
#   image       = "registry.example.com/leasehold"
#   version     = "v0.1.0"
#   binary_name = "leasehold"
#   args        = ["database"]
#   sha256sum   = "0000000000000000000000000000000000000000000000000000000000000000"
# }
