# The least: requests are signed with AWS credentials that may execute-api:Invoke.
provider "aws" {
  region = "eu-central-1"
}

module "esker" {
  source = "../.."
}

output "url" {
  description = "Where HTTP is answered."
  value       = module.esker.url
}

output "store" {
  description = "The store, as `esker --store` takes it."
  value       = module.esker.store
}
