output "bucket" {
  description = "The bucket's name: `modelfleet init --bucket`."
  value       = aws_s3_bucket.this.id
}

output "arn" {
  description = "The bucket's ARN."
  value       = aws_s3_bucket.this.arn
}

output "policy_arns" {
  description = "IAM policies to attach: publisher, coordinator, member."
  value       = { for who, p in aws_iam_policy.this : who => p.arn }
}
