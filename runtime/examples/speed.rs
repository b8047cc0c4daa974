//! temporary
use std::time::Instant;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t: usize = a[2].parse().unwrap();
    let t0 = Instant::now();
    let model = bonsai_runtime::Model::open(&a[1]).unwrap();
    println!("open {:.1} ms", t0.elapsed().as_secs_f64() * 1e3);
    let mut s =
        model.session(bonsai_runtime::SessionOptions { threads: Some(t), ..Default::default() }).unwrap();
    for _ in 0..3 {
        s.reset();
        let p: Vec<u32> = (0..256).map(|i| (i * 37 % 1000) as u32).collect();
        let c0 = cpu();
        let t0 = Instant::now();
        s.prompt(&p).unwrap();
        let pp = 256.0 / t0.elapsed().as_secs_f64();
        let ppc = 256.0 / (cpu() - c0);
        s.rewind(8);
        let mut times = vec![];
        let c0 = cpu();
        for i in 0..48 {
            let t0 = Instant::now();
            s.next(i * 11 + 3).unwrap();
            times.push(t0.elapsed().as_secs_f64());
        }
        let tgc = 48.0 / (cpu() - c0);
        times.sort_by(f64::total_cmp);
        println!(
            "threads {t} pp {pp:.1} tok/s  tg median {:.1} best {:.1}; leader cpu: pp {ppc:.1} tg {tgc:.1}",
            1.0 / times[24],
            1.0 / times[0]
        );
    }
}
