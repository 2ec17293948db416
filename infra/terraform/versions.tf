terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

data "aws_region" "this" {}
data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
