-- Names by number, as the IANA registries spell them, for what a handshake shows.
--
--   names.group(29) == "x25519"; an unknown number is "0x6399", a GREASE one (RFC 8701) "GREASE".

local names = {}

local function lookup(digits, list)
  local form = "0x%0" .. digits .. "x"
  return function(number)
    local name = list[number]
    if name then return name end
    -- RFC 8701: 0x0a0a, 0x1a1a ... 0xfafa.
    if digits == 4 and number % 16 == 10 and number % 256 == math.floor(number / 256) then
      return "GREASE"
    end
    return form:format(number)
  end
end

local function swap(list)
  local result = {}
  for number, name in pairs(list) do result[name] = number end
  return result
end

-- ProtocolVersion (RFC 8446 4.2.1); spelled as session:info().version spells them.
names.versions = {
  [0x0002] = "SSL2.0", [0x0300] = "SSL3.0", [0x0301] = "TLS1.0", [0x0302] = "TLS1.1", [0x0303] = "TLS1.2",
  [0x0304] = "TLS1.3", [0xfeff] = "DTLS1.0", [0xfefd] = "DTLS1.2", [0xfefc] = "DTLS1.3",
}
names.version = lookup(4, names.versions)

-- TLS HandshakeType; 1025 is GnuTLS's own number for a ServerHello that asks for a second ClientHello.
names.handshake_types = {
  [0] = "HelloRequest", [1] = "ClientHello", [2] = "ServerHello", [3] = "HelloVerifyRequest",
  [4] = "NewSessionTicket", [5] = "EndOfEarlyData", [8] = "EncryptedExtensions", [11] = "Certificate",
  [12] = "ServerKeyExchange", [13] = "CertificateRequest", [14] = "ServerHelloDone",
  [15] = "CertificateVerify", [16] = "ClientKeyExchange", [20] = "Finished", [21] = "CertificateURL",
  [22] = "CertificateStatus", [23] = "SupplementalData", [24] = "KeyUpdate", [25] = "CompressedCertificate",
  [254] = "ChangeCipherSpec", [1025] = "HelloRetryRequest",
}
names.handshake_type = lookup(2, names.handshake_types)

-- TLS Supported Groups (RFC 8447, RFC 9847).
names.groups = {
  [1] = "sect163k1", [2] = "sect163r1", [3] = "sect163r2", [4] = "sect193r1", [5] = "sect193r2",
  [6] = "sect233k1", [7] = "sect233r1", [8] = "sect239k1", [9] = "sect283k1", [10] = "sect283r1",
  [11] = "sect409k1", [12] = "sect409r1", [13] = "sect571k1", [14] = "sect571r1", [15] = "secp160k1",
  [16] = "secp160r1", [17] = "secp160r2", [18] = "secp192k1", [19] = "secp192r1", [20] = "secp224k1",
  [21] = "secp224r1", [22] = "secp256k1", [23] = "secp256r1", [24] = "secp384r1", [25] = "secp521r1",
  [26] = "brainpoolP256r1", [27] = "brainpoolP384r1", [28] = "brainpoolP512r1", [29] = "x25519",
  [30] = "x448", [31] = "brainpoolP256r1tls13", [32] = "brainpoolP384r1tls13", [33] = "brainpoolP512r1tls13",
  [34] = "GC256A", [35] = "GC256B", [36] = "GC256C", [37] = "GC256D", [38] = "GC512A", [39] = "GC512B",
  [40] = "GC512C", [41] = "curveSM2",
  [256] = "ffdhe2048", [257] = "ffdhe3072", [258] = "ffdhe4096", [259] = "ffdhe6144", [260] = "ffdhe8192",
  [512] = "MLKEM512", [513] = "MLKEM768", [514] = "MLKEM1024",
  [4587] = "SecP256r1MLKEM768", [4588] = "X25519MLKEM768", [4589] = "SecP384r1MLKEM1024",
  [25497] = "X25519Kyber768Draft00", [25498] = "SecP256r1Kyber768Draft00",
  [65281] = "arbitrary_explicit_prime_curves", [65282] = "arbitrary_explicit_char2_curves",
}
names.group = lookup(4, names.groups)

-- TLS SignatureScheme; the pairs of hash and signature of RFC 5246 are spelled alike.
names.signature_schemes = {
  [0x0101] = "rsa_pkcs1_md5", [0x0201] = "rsa_pkcs1_sha1", [0x0202] = "dsa_sha1", [0x0203] = "ecdsa_sha1",
  [0x0301] = "rsa_pkcs1_sha224", [0x0302] = "dsa_sha224", [0x0303] = "ecdsa_sha224",
  [0x0401] = "rsa_pkcs1_sha256", [0x0402] = "dsa_sha256", [0x0403] = "ecdsa_secp256r1_sha256",
  [0x0420] = "rsa_pkcs1_sha256_legacy",
  [0x0501] = "rsa_pkcs1_sha384", [0x0502] = "dsa_sha384", [0x0503] = "ecdsa_secp384r1_sha384",
  [0x0520] = "rsa_pkcs1_sha384_legacy",
  [0x0601] = "rsa_pkcs1_sha512", [0x0602] = "dsa_sha512", [0x0603] = "ecdsa_secp521r1_sha512",
  [0x0620] = "rsa_pkcs1_sha512_legacy", [0x0708] = "sm2sig_sm3",
  [0x0709] = "gostr34102012_256a", [0x070a] = "gostr34102012_256b", [0x070b] = "gostr34102012_256c",
  [0x070c] = "gostr34102012_256d", [0x070d] = "gostr34102012_512a", [0x070e] = "gostr34102012_512b",
  [0x070f] = "gostr34102012_512c",
  [0x0804] = "rsa_pss_rsae_sha256", [0x0805] = "rsa_pss_rsae_sha384", [0x0806] = "rsa_pss_rsae_sha512",
  [0x0807] = "ed25519", [0x0808] = "ed448",
  [0x0809] = "rsa_pss_pss_sha256", [0x080a] = "rsa_pss_pss_sha384", [0x080b] = "rsa_pss_pss_sha512",
  [0x081a] = "ecdsa_brainpoolP256r1tls13_sha256", [0x081b] = "ecdsa_brainpoolP384r1tls13_sha384",
  [0x081c] = "ecdsa_brainpoolP512r1tls13_sha512",
  [0x0904] = "mldsa44", [0x0905] = "mldsa65", [0x0906] = "mldsa87",
}
names.signature_scheme = lookup(4, names.signature_schemes)

-- TLS ExtensionType.
names.extensions = {
  [0] = "server_name", [1] = "max_fragment_length", [2] = "client_certificate_url", [3] = "trusted_ca_keys",
  [4] = "truncated_hmac", [5] = "status_request", [6] = "user_mapping", [7] = "client_authz",
  [8] = "server_authz", [9] = "cert_type", [10] = "supported_groups", [11] = "ec_point_formats",
  [12] = "srp", [13] = "signature_algorithms", [14] = "use_srtp", [15] = "heartbeat",
  [16] = "application_layer_protocol_negotiation", [17] = "status_request_v2",
  [18] = "signed_certificate_timestamp", [19] = "client_certificate_type",
  [20] = "server_certificate_type", [21] = "padding", [22] = "encrypt_then_mac",
  [23] = "extended_master_secret", [24] = "token_binding", [25] = "cached_info", [26] = "tls_lts",
  [27] = "compress_certificate", [28] = "record_size_limit", [29] = "pwd_protect", [30] = "pwd_clear",
  [31] = "password_salt", [32] = "ticket_pinning", [33] = "tls_cert_with_extern_psk",
  [34] = "delegated_credential", [35] = "session_ticket", [36] = "TLMSP", [37] = "TLMSP_proxying",
  [38] = "TLMSP_delegate", [39] = "supported_ekt_ciphers",
  [41] = "pre_shared_key", [42] = "early_data", [43] = "supported_versions", [44] = "cookie",
  [45] = "psk_key_exchange_modes", [47] = "certificate_authorities", [48] = "oid_filters",
  [49] = "post_handshake_auth", [50] = "signature_algorithms_cert", [51] = "key_share",
  [52] = "transparency_info", [53] = "connection_id_deprecated", [54] = "connection_id",
  [55] = "external_id_hash", [56] = "external_session_id", [57] = "quic_transport_parameters",
  [58] = "ticket_request", [59] = "dnssec_chain", [60] = "sequence_number_encryption_algorithms",
  [61] = "rrc", [13172] = "next_protocol_negotiation", [17513] = "application_settings",
  [64768] = "ech_outer_extensions", [65037] = "encrypted_client_hello", [65281] = "renegotiation_info",
}
names.extension = lookup(4, names.extensions)

-- TLS Alerts (RFC 8446 6; those that only older versions had, too).
names.alerts = {
  [0] = "close_notify", [1] = "end_of_early_data", [10] = "unexpected_message", [20] = "bad_record_mac",
  [21] = "decryption_failed", [22] = "record_overflow", [30] = "decompression_failure",
  [40] = "handshake_failure", [41] = "no_certificate", [42] = "bad_certificate",
  [43] = "unsupported_certificate", [44] = "certificate_revoked", [45] = "certificate_expired",
  [46] = "certificate_unknown", [47] = "illegal_parameter", [48] = "unknown_ca", [49] = "access_denied",
  [50] = "decode_error", [51] = "decrypt_error", [52] = "too_many_cids_requested",
  [60] = "export_restriction", [70] = "protocol_version", [71] = "insufficient_security",
  [80] = "internal_error", [86] = "inappropriate_fallback", [90] = "user_canceled",
  [100] = "no_renegotiation", [109] = "missing_extension", [110] = "unsupported_extension",
  [111] = "certificate_unobtainable", [112] = "unrecognized_name", [113] = "bad_certificate_status_response",
  [114] = "bad_certificate_hash_value", [115] = "unknown_psk_identity", [116] = "certificate_required",
  [117] = "general_error", [120] = "no_application_protocol", [121] = "ech_required",
}
names.alert = lookup(2, names.alerts)
names.alert_numbers = swap(names.alerts)

-- TLS ClientCertificateType Identifiers (1.2's CertificateRequest).
names.client_certificate_type = lookup(2, {
  [1] = "rsa_sign", [2] = "dss_sign", [3] = "rsa_fixed_dh", [4] = "dss_fixed_dh", [64] = "ecdsa_sign",
  [65] = "rsa_fixed_ecdh", [66] = "ecdsa_fixed_ecdh", [67] = "gost_sign256", [68] = "gost_sign512",
})

-- TLS Certificate Types (RFC 7250).
names.certificate_type = lookup(2, { [0] = "X509", [1] = "OpenPGP", [2] = "RawPublicKey", [3] = "1609Dot2" })

-- TLS PskKeyExchangeMode (RFC 8446 4.2.9).
names.psk_mode = lookup(2, { [0] = "psk_ke", [1] = "psk_dhe_ke" })

-- TLS Certificate Status Types (RFC 6066, RFC 6961).
names.status_type = lookup(2, { [1] = "ocsp", [2] = "ocsp_multi" })

-- TLS Certificate Compression Algorithm IDs (RFC 8879).
names.certificate_compression = lookup(4, { [1] = "zlib", [2] = "brotli", [3] = "zstd" })

-- TLS Compression Method Identifiers (RFC 3749).
names.compression = lookup(2, { [0] = "null", [1] = "DEFLATE", [64] = "LZS" })

-- TLS EC Point Formats (RFC 8422).
names.point_format = lookup(2, {
  [0] = "uncompressed", [1] = "ansiX962_compressed_prime", [2] = "ansiX962_compressed_char2",
})

-- MaxFragmentLength (RFC 6066 4), in bytes.
names.fragment_lengths = { [1] = 512, [2] = 1024, [3] = 2048, [4] = 4096 }

local suites = lookup(4, require "tlsconnect.trace.suites")
names.suite = suites

return names
