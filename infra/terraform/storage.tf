locals {
  bucket = coalesce(var.bucket, "${var.name}-${data.aws_caller_identity.this.account_id}-${data.aws_region.this.region}")
  folder = var.prefix == "" ? "" : "${var.prefix}/"
  store  = trimsuffix("s3://${local.bucket}/${var.prefix}", "/")
}

# Names of objects are never used again and only the collection of garbage deletes: there is nothing for versions to
# keep, and what it deleted would be paid for.
resource "aws_s3_bucket" "store" {
  #checkov:skip=CKV_AWS_21:Objects are immutable and their names are never reused
  #checkov:skip=CKV_AWS_18:The functions log each request; object-level logs are CloudTrail's, for the account to choose
  #checkov:skip=CKV_AWS_144:One region holds the only truth; a second one could not take part in create-if-absent
  bucket        = local.bucket
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# An upload whose maker died leaves parts that no listing shows. No other object has an end of its own here: what goes is
# decided by the collection of garbage.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    id     = "incomplete-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  statement {
    sid       = "OnlyEncryptedConnections"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket     = aws_s3_bucket.store.id
  policy     = data.aws_iam_policy_document.bucket.json
  depends_on = [aws_s3_bucket_public_access_block.store]
}

# The append that finds the log folded, and each 16th, puts a mark under dirty/: that is what wakes the compactor.
# Nothing asks the bucket while nobody writes. A merge in steps wakes its next step so, too.
resource "aws_s3_bucket_notification" "marks" {
  bucket = aws_s3_bucket.store.id

  lambda_function {
    lambda_function_arn = aws_lambda_function.this["compactor"].arn
    events              = ["s3:ObjectCreated:*"]
    filter_prefix       = "${local.folder}dirty/"
  }

  depends_on = [aws_lambda_permission.bucket]
}

resource "aws_lambda_permission" "bucket" {
  statement_id   = "bucket"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.this["compactor"].function_name
  principal      = "s3.amazonaws.com"
  source_arn     = aws_s3_bucket.store.arn
  source_account = data.aws_caller_identity.this.account_id
}
